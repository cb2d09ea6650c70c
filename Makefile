# What the commands do is in CONTRIBUTING.md.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: all build test race vet lint fuzz bench lab dist clean

all: build

build:
	go build -o bin/hostgwd ./examples/hostgwd

test:
	go test ./... ./examples/...

race:
	go test -race ./... ./examples/...

vet:
	gofmt -l . | (! grep .)
	go vet ./... ./examples/...
	GOOS=darwin go vet ./...

lint: vet
	cd examples && go tool staticcheck github.com/hostgw/hostgw/... ./...

lab:
	go run ./examples/lab

clean:
	rm -rf bin dist
