package nginx_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/nginx/nginxtest"
)

// advised are the buffers that README.md advises.
const advised = "proxy_buffer_size 5000; proxy_buffers 16 5000;"

// TestAnswerInPieces reloads nginx, without any adapter, while an app has sent a
// first piece of its answer. Where the piece fills nginx's buffer to the byte,
// nginx 1.22.1 waits for the rest without a timer; and a worker without timers
// takes itself for done, ends, and cuts the answer off. The buffers that we advise
// are not filled by the pieces in which programs write.
func TestAnswerInPieces(t *testing.T) {
	for _, piece := range []int{1000, 4096, 8192, 16384, 20480} {
		got, err := answerOverAReload(t, piece, advised)
		if err != nil {
			t.Errorf("an answer whose first piece has %d bytes: %v after %d bytes", piece, err, got)
		}
	}
	// What becomes of this is nginx's affair, so it is told and not judged.
	got, err := answerOverAReload(t, 4096, "")
	t.Logf("with nginx's own buffers, an answer whose first piece has 4096 bytes: %d bytes, error %v", got, err)
}

// answerOverAReload gets an answer whose first piece, head included, is sent
// before a reload and the rest after it.
func answerOverAReload(t *testing.T, piece int, lines string) (got int64, err error) {
	t.Helper()
	const total = 30_000 // of the body
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	sent, reloaded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		conn, err := app.Accept()
		if err != nil {
			return
		}
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", total)
		// Whether all this arrives is what the visitor is to see.
		_, _ = io.WriteString(conn, head+strings.Repeat("x", piece-len(head)))
		go func() {
			defer conn.Close()
			<-reloaded
			_, _ = io.WriteString(conn, strings.Repeat("x", total-(piece-len(head))))
		}()
	}()
	p := nginxtest.Start(t, nginxtest.Options{
		Upstreams: []nginxtest.Upstream{{Name: "web", Servers: []string{app.Addr().String()}}}, Lines: []string{lines},
	})
	defer p.Stop()
	visitor, err := net.Dial("tcp", strings.TrimPrefix(p.URL("web"), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer visitor.Close()
	if err := visitor.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(visitor, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-sent
	if err := p.Reload(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.Output(), "gracefully shutting down"); {
		if time.Now().After(deadline) {
			t.Errorf("no worker ends; nginx said:\n%s", p.Output())
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	close(reloaded)
	r, err := http.ReadResponse(bufio.NewReader(visitor), nil)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	return io.Copy(io.Discard, r.Body)
}
