// Command greeter greets whoever asks.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

const greeting = "Hello"

func main() {
	r := chi.NewRouter()
	r.Use(middleware.Recoverer, middleware.Timeout(20*time.Second))
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		// Here belongs what the app cannot serve without: a database, say.
		w.WriteHeader(http.StatusNoContent)
	})
	r.Get("/", greet)
	r.Get("/{name}", greet)

	srv := &http.Server{Addr: os.Getenv("LISTEN"), Handler: r, ReadHeaderTimeout: 10 * time.Second}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	drained := make(chan error, 1)
	go func() {
		<-stop.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		drained <- srv.Shutdown(ctx) // which waits for the requests that it has
	}()
	log.Printf("listening on %s", srv.Addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	if err := <-drained; err != nil {
		log.Fatal(err)
	}
}

func greet(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "name")
	if name == "" {
		name = "world"
	}
	if _, err := w.Write([]byte(greeting + ", " + name + "\n")); err != nil {
		log.Printf("cannot answer %s: %v", r.RemoteAddr, err)
	}
}
