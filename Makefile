.PHONY: fmt
fmt:
	cargo fmt
