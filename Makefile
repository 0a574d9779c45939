# Entry points for people. `make help` lists them. VENV and PYTHON may be given: make setup VENV=/opt/starry PYTHON=python3.12

VENV ?= .venv
PYTHON ?= python3

venv := $(abspath $(VENV))
python := $(venv)/bin/python
build := $(venv)/build
hash = $(shell cat $(1) | sha256sum | cut -c1-16)
# One stamp for the packages, one for the interfaces and the link to this checkout: a second `make setup` only looks.
packages := $(venv)/.packages-$(call hash,requirements.lock)
package := $(venv)/.package-$(shell (echo $(CURDIR); cat requirements.lock CMakeLists.txt package.xml setup.py \
	starry_ros/__init__.py msg/*.msg srv/*.srv) | sha256sum | cut -c1-16)
ros_env := AMENT_PREFIX_PATH=$(venv) CMAKE_PREFIX_PATH=$(venv) PATH=$(venv)/bin:$$PATH
torch := $(shell grep -E '^torch==' requirements.lock)
pytest := OMP_WAIT_POLICY=PASSIVE $(python) -m pytest
pip := $(python) -m pip --disable-pip-version-check --quiet
install := $(pip) install --no-compile

.PHONY: help setup demo test unit lint bench colcon clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(package)  ## make the environment, build the messages, install starry (first time: minutes; then: at once)

demo: setup  ## run the simulated robot through ROS 2 and write demo/: report, pictures, film
	$(venv)/bin/starry demo

test: setup lint unit  ## lint, then every test: units on all cores, then the tests over real DDS one by one
	$(pytest) test/ros

unit: setup  ## only the tests that need no DDS
	OMP_NUM_THREADS=1 $(pytest) --ignore=test/ros --numprocesses=auto --dist=loadfile

lint: setup  ## ruff and mypy
	$(venv)/bin/ruff check .
	$(venv)/bin/mypy

bench: setup  ## measure everything that has a bar
	OMP_WAIT_POLICY=PASSIVE $(venv)/bin/starry bench all

colcon: setup  ## build the same tree with colcon over the environment, into build/ and install/
	$(ros_env) $(python) -m colcon build --cmake-args -DPython3_EXECUTABLE=$(python) -DBUILD_TESTING=OFF

clean:  ## remove what was built and measured here; keeps the environment and the data
	rm -rf build install log demo .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(packages):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 to 3.13. Fix: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
		{ echo "error: the headers of $(PYTHON) are missing. Fix: apt-get install python3-dev"; exit 2; }
	@command -v c++ > /dev/null || { echo "error: no C++ compiler. Fix: apt-get install g++"; exit 2; }
	@test -x $(python) || $(PYTHON) -m venv $(venv) || { echo "error: no venv. Fix: apt-get install python3-venv"; exit 2; }
	@if nvidia-smi > /dev/null 2>&1; then echo "installing $(torch), CUDA build"; $(install) $(torch); \
	else echo "installing $(torch), CPU build"; \
		$(install) --no-deps --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 $(torch); fi
	@echo "installing requirements.lock"
	@$(install) --no-deps -r requirements.lock
	@rm -f $(venv)/.packages-* && touch $@

$(package): $(packages)
	@echo "building messages and services"
	@rm -rf $(venv)/lib/python*/site-packages/starry_ros-*.egg-info
	@$(install) --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@mkdir -p $(build) && { \
		$(ros_env) cmake -S . -B $(build)/starry_ros -G Ninja -DPython3_EXECUTABLE=$(python) -DCMAKE_INSTALL_PREFIX=$(venv) \
			-DSTARRY_INSTALL_PYTHON=OFF -DBUILD_TESTING=OFF && \
		$(ros_env) cmake --build $(build)/starry_ros && $(ros_env) cmake --install $(build)/starry_ros; \
	} > $(build)/log 2>&1 || { tail -30 $(build)/log; exit 1; }
	@rm -rf $(venv)/lib/python*/site-packages/starry_ros-*.egg-info *.egg-info
	@rm -f $(venv)/.package-* && touch $@
