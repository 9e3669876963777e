package main

import (
	"io"
	"os"

	"golang.org/x/term"
)

// terminal is a screen that can be drawn anew.
type terminal interface {
	io.Writer
	// Size returns its columns and lines as they are now.
	Size() (columns, lines int)
}

type fileTerminal struct{ *os.File }

// stdoutTerminal returns standard output if it is a terminal that understands
// cursor movement, else nil.
func stdoutTerminal() terminal {
	if !term.IsTerminal(int(os.Stdout.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return fileTerminal{os.Stdout}
}

func (t fileTerminal) Size() (int, int) {
	columns, lines, err := term.GetSize(int(t.Fd()))
	if err != nil || columns <= 0 || lines <= 0 {
		return 80, 24
	}
	return columns, lines
}
