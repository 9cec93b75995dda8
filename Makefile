# Two commands: `make demo` and `make test`. Everything they need sets itself up under .venv/ and .dev/.
# More words for the program behind a target: make test ARGS="-k relay", make demo ARGS=--once

ARGS ?=
# Of the tests, each with servers of its own: they wait more than they compute.
PROCESSES ?= 4
PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo up servers test chaos mta bench audit lint format docs python broker browser clean

help: ## what there is
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: python broker ## the whole system with live traffic, until Ctrl-C (ARGS=--once: a fixed load, then a verdict)
	@exec $(PYTHON) -m deploy.local demo $(ARGS)

up: python broker ## the whole system without traffic; restarts whatever dies
	@exec $(PYTHON) -m deploy.local up $(ARGS)

servers: python broker ## PostgreSQL and RabbitMQ alone
	@exec $(PYTHON) -m deploy.local servers $(ARGS)

test: python broker browser ## the tests, against a real PostgreSQL and a real RabbitMQ (ARGS go to pytest)
	@exec $(PYTHON) -m pytest -m "not long and not mta" --numprocesses $(PROCESSES) --dist loadfile $(ARGS)

chaos: python broker ## minutes of killing things under load
	@exec $(PYTHON) -m pytest -m "system or long" $(ARGS)

mta: python ## mail to the real Postfix, OpenSMTPD and Exim that are installed; they need root to start
	@exec $(PYTHON) -m pytest -m mta -rs tests/mta $(ARGS)

bench: python broker ## the figures, each a ratio within one run
	@exec $(PYTHON) -m bench $(ARGS)

audit: python ## known vulnerabilities of what is pinned, by the package index (ARGS go to pip-audit)
	@deploy/local/setup.sh audit
	@exec .dev/audit/bin/pip-audit --requirement requirements.txt --disable-pip --require-hashes --strict $(ARGS)

lint: python ## style, types, and the arrows between the packages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy outbox actors service deploy
	.venv/bin/lint-imports

format: python ## let ruff mend what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: python ## the pages as a site, in .dev/site; fails on a broken link
	@exec $(PYTHON) -m zensical build --strict --clean $(ARGS)

clean: python ## deletes .dev/ with all its data; nothing of it may run
	@exec $(PYTHON) -m deploy.local clean

python:
	@deploy/local/setup.sh python

broker:
	@deploy/local/setup.sh broker

browser:
	@deploy/local/setup.sh browser
