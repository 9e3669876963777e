module github.com/me/tally

go 1.22
