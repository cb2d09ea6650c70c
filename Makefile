# What the commands do is in CONTRIBUTING.md.

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

# Another version of Go gives other bytes, so the one that a release is made by is
# named; the go command fetches it if it is not here.
dist: export GOTOOLCHAIN = go1.26.8
dist:
	go run ./examples/release -o dist $(if $(VERSION),-version $(VERSION))

clean:
	rm -rf bin dist
