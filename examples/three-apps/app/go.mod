module github.com/me/store

go 1.22
