# Demos, tests and benchmarks install what they need; plain cargo commands with `--features hub` do the same without make.

CARGO ?= cargo
FULL = --features hub
# Flags for the demos, such as --steps 100.
FLAGS ?=
# Kernels only: what differs between adapters, shader modes and subgroup sizes.
KERNELS = $(CARGO) test $(FULL) --lib kernels

# Mesa complains on standard error where a machine without a desktop has none.
export XDG_RUNTIME_DIR ?= /tmp

.PHONY: help demo demo-bicnet demo-moments demo-eercf demo-glccl test serve-test bench doc lint figures vulkan programs

help:
	@echo "make demo          render videos, train a model, index them, ask three questions"
	@echo "make demo-bicnet   render videos, train BiC-Net on their features, evaluate, search"
	@echo "make demo-moments  simulate long videos, train ReLoCLNet on them, evaluate, find moments"
	@echo "make demo-eercf    render clips, train EERCF with its towers on them, compare two-stage retrieval with scoring all"
	@echo "make demo-glccl    render clips, train GLCCL with its towers on them, evaluate on whole and partial captions"
	@echo "make test          all tests; then the kernels with checked shaders and, on lavapipe, other subgroup sizes"
	@echo "make serve-test    the server's page in Chromium, and its API against its own description"
	@echo "make bench         benchmarks"
	@echo "make doc           documentation, in target/doc"
	@echo "make lint          formatting, clippy, documentation warnings, figures"
	@echo "make figures       sizes of functions and files, and their limits"
	@echo "make vulkan        a Vulkan driver where there is none (Debian, Ubuntu); demos and tests do it themselves"
	@echo "make programs      ffmpeg and spirv-val, which the tests run"

demo: vulkan programs
	$(CARGO) run --release $(FULL) -- demo $(FLAGS)

demo-bicnet: vulkan
	$(CARGO) run --release $(FULL) --example quickstart -- $(FLAGS)

demo-moments: vulkan
	$(CARGO) run --release $(FULL) --example quickstart_moments -- $(FLAGS)

demo-eercf: vulkan
	$(CARGO) run --release $(FULL) --example train_eercf -- $(FLAGS)

demo-glccl: vulkan
	$(CARGO) run --release $(FULL) --example train_glccl -- $(FLAGS)

test: vulkan programs
	$(CARGO) test $(FULL)
	REELGRAD_CHECKED=1 $(KERNELS)
	REELGRAD_CHECKED=1 $(CARGO) test $(FULL) --test bicnet --test clip --test gated --test gradients --test moments --test parity --test reloclnet --test tape --test training
	sh scripts/other_subgroup_sizes.sh $(KERNELS)

serve-test: vulkan programs
	$(CARGO) build --release $(FULL)
	sh scripts/page.sh
	sh scripts/schemathesis.sh

bench: vulkan
	$(CARGO) bench $(FULL)

doc:
	$(CARGO) doc $(FULL) --no-deps

lint: figures
	$(CARGO) fmt --check
	$(CARGO) clippy $(FULL) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(FULL) --no-deps

figures:
	@sh scripts/figures.sh

# A Vulkan driver, on Linux.
vulkan:
	@sh scripts/vulkan.sh

# What the tests run.
programs:
	@sh scripts/programs.sh
