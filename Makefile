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

# Each fuzz target in turn, FUZZTIME long.
FUZZTIME ?= 10s
fuzz:
	set -e; for package in $$(go list ./... ./examples/...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

# The benchmarks of each package, then the table of the README: as root.
bench:
	go test -run '^$$' -bench . ./...
	go run ./examples/bench

lab:
	go run ./examples/lab

# Another version of Go gives other bytes, so the one that a release is made by is
# named; the go command fetches it if it is not here.
dist: export GOTOOLCHAIN = go1.26.8
dist:
	go run ./examples/release -o dist $(if $(VERSION),-version $(VERSION))

clean:
	rm -rf bin dist
