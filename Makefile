# Two commands matter: `make demo` and `make test`. Each does on a fresh machine all the set-up it needs, says what it
# does, and installs nothing the second time.
.POSIX:
.PHONY: help setup demo test test-frameworks lint check shape chaos simulation interleavings fuzz fuzz-wire differential test-rabbitmq4 bench bench-peers studies clean

BIN = .venv/bin
ARGS =
SCHEDULES = 200
SIMULATED = 20000
INPUTS = 100000
WIRE_INPUTS = 10000000
SEED = 1

help:
	@echo 'make demo             train one model at three hospitals on this machine (ARGS="--rounds 4" for options)'
	@echo 'make test             lint, types, import contracts and all tests'
	@echo 'make test-frameworks  the programs of experiments/trainers, each framework in an environment of its own'
	@echo 'make setup            only what both need: RabbitMQ, Orthanc, .venv with pinned dependencies'
	@echo 'make check            make test without the tests'
	@echo 'make shape            figures of the code: sizes, names, circles (make test prints them too)'
	@echo 'make chaos            faults, and the services under a real systemd in a machine of their own (root; minutes)'
	@echo 'make simulation       20,000 schedules of faults in virtual time (SIMULATED=N; hours; goes on where it was)'
	@echo 'make fuzz             100,000 damaged inputs of each kind, and a table of what was seen (hours; goes on where it was)'
	@echo 'make fuzz-wire        ten million damaged messages, as somebody with a valid key sends them (hours; goes on where it was)'
	@echo 'make differential     volumes of public and generated DICOM series against dcm2niix and SimpleITK'
	@echo 'make test-rabbitmq4   the bus and whole experiments on RabbitMQ 4 out of Debian 13 (root; debootstrap)'
	@echo 'make bench            a round of null training: seconds, bytes, memory, by size, codec and number of sites'
	@echo 'make bench-peers      FLARE and Flower on the same work on this machine, and the ratios'
	@echo 'make studies          two rounds of every file in experiments/ on generated images, and their table (goes on where it was)'
	@echo 'make clean            remove .venv, caches and demo-out'
	@echo
	@echo 'KONSIL_TORCH=cpu|cuda, KONSIL_TORCH_INDEX=URL, KONSIL_PYTHON=PATH: see deploy/bootstrap/environment.sh'

setup:
	@sh deploy/bootstrap/find-python.sh >/dev/null
	@sh deploy/bootstrap/broker.sh
	@sh deploy/bootstrap/orthanc.sh
	@sh deploy/bootstrap/environment.sh

# exec: make hands its place in the foreground over, so that Ctrl-C reaches the demo alone
demo: setup
	@exec $(BIN)/konsil demo $(ARGS)

check: setup
	@echo 'konsil: lint'
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@echo 'konsil: types'
	@$(BIN)/mypy --no-error-summary
	@echo 'konsil: import contracts'
	@$(BIN)/lint-imports --no-logo >.import-contracts.log 2>&1 || { cat .import-contracts.log; rm -f .import-contracts.log; exit 1; }
	@rm -f .import-contracts.log

shape: setup
	@echo 'konsil: shape'
	@$(BIN)/python -m tests.shape

# With its bytecode kept, whatever the environment says: the tests start a thousand processes
test: check shape
	@echo 'konsil: tests'
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# TensorFlow, JAX and PaddlePaddle in environments of their own (.frameworks), made the first time; a gigabyte and a half
test-frameworks: setup
	@sh deploy/bootstrap/frameworks.sh
	@echo 'konsil: frameworks'
	@KONSIL_FRAMEWORKS=1 $(BIN)/python -m pytest tests/frameworks -ra $(ARGS)

# On an otherwise idle machine; about a quarter of an hour
bench: setup
	@$(BIN)/python -m benchmarks.table $(ARGS)

# Half an hour; what was run is kept in .studies
studies: setup
	@$(BIN)/python -m benchmarks.studies --page docs/studies.md $(ARGS)

# FLARE and Flower in environments of their own (benchmarks/.peers), made the first time
bench-peers: setup
	@$(BIN)/python -m benchmarks.peers.ratios $(ARGS)

# Schedules of faults against real processes (a failure says how to repeat it), then the tests.
# What cannot be had here (root, systemd-nspawn) is skipped with its reason. The machine's root and wheels are kept in
# ~/.cache/konsil/nspawn (KONSIL_NSPAWN_CACHE).
chaos: setup
	@echo 'konsil: chaos'
	@$(BIN)/python -m tests.chaos --schedules $(SCHEDULES)
	@KONSIL_CHAOS=1 $(BIN)/python -m pytest tests/chaos -ra $(ARGS)

# A failure says how to repeat its seed, and how to shrink it. (`interleavings` is what it was called.)
simulation interleavings: setup
	@echo 'konsil: simulation'
	@$(BIN)/python -m tests.simulation --schedules $(SIMULATED) --seed $(SEED) --jobs 2 --state .simulation.json $(ARGS)

fuzz: setup
	@echo 'konsil: damaged inputs'
	@$(BIN)/python -m tests.fuzz --count $(INPUTS) --seed $(SEED) --state .fuzz.json $(ARGS)

# Ten million damaged messages from who holds a valid key; hours
fuzz-wire: setup
	@$(BIN)/python -m tests.fuzz --kind wire --count $(WIRE_INPUTS) --seed $(SEED) --state .fuzz.json $(ARGS)

differential: setup
	@$(BIN)/python -m tests.differential $(ARGS)

RABBITMQ4_TESTS = tests/contract tests/e2e/test_faults_processes.py

test-rabbitmq4: setup
	@echo 'konsil: RabbitMQ 4'
	@home=$$(tests/chaos/rabbitmq4) && CI=true RABBITMQ_HOME=$$home $(BIN)/python -m pytest $(RABBITMQ4_TESTS) $(ARGS)

clean:
	rm -rf .venv .frameworks benchmarks/.peers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo-out konsil.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
