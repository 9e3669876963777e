"""A WSGI app that says how many notes there are."""

GREETING = "notes are kept here"


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/healthz":
        body = b"ok\n"
    elif path == "/":
        body = f"12 {GREETING}\n".encode()
    else:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such page\n"]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
