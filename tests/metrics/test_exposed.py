"""What the processes expose, against all that speaks of it: the page, the dashboard, the alerts, the runbooks.

The processes are real, and each is asked on its own port.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from awaiting import await_that
from exposed import at_work, labels_of, metrics_at, names_in, of_the_api, series_of
from promql import grouped, series

from deploy.local.place import ROOT
from deploy.local.servers import GivenServer, RabbitMQ
from outbox.cli.root import command
from tests.docs.pages import anchors, page, rows

MONITORING = ROOT / "deploy" / "monitoring"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text())
EXPRESSIONS = {f"alert {name}": rule["expr"] for name, rule in ALERTS.items()} | {
    f"panel {panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
SOURCES = ("outbox", "actors", "service")
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")

#: Registered wherever the actors are loaded, by the scheduler too.
OF_THE_ACTORS = ("mail_", "webhook_")

Exposed = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def exposed(
    new_database: Callable[[str], str],
    migrated_template: str,
    rabbitmq: RabbitMQ | GivenServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exposed:
    """{process: {name: type}} of a relay, a worker, a scheduler, two processes of plain Dramatiq, and an API."""
    url, logs = new_database(migrated_template), tmp_path_factory.mktemp("logs")
    surroundings = {
        "DATABASE_URL": url, "RABBITMQ_URL": rabbitmq.url, "OUTBOX_QUEUE_PREFIX": "t_metrics", "OUTBOX_APP": "actors",
        "SECRET_KEY": "0123456789abcdef0123456789abcdef", "MAIL_FROM": "The Shop <shop@example.com>",
    }  # fmt: skip
    with at_work(logs, **surroundings) as ports:
        served = {name: [port] for name, port in ports.items()}
        second = await_that(
            lambda: [port for port in range(ports["dramatiq"] + 1, ports["dramatiq"] + 64) if metrics_at(port)]
        )
        served["dramatiq"] += second[:1]
        await_that(lambda: "outbox_backlog_tasks" in metrics_at(ports["relay"]))
        told = {name: [await_that(lambda p=p: metrics_at(p)) for p in each] for name, each in served.items()}
    found = {name: names_in(texts[0]) for name, texts in told.items()} | {"API": names_in(of_the_api(url))}
    found["dramatiq, the other one"] = names_in(told["dramatiq"][1])
    return found


def written() -> dict[str, set[str]]:
    """{process: {name, name{label,…}}} as the page has it."""
    found: dict[str, set[str]] = {}
    process = ""
    for first, names, _ in rows("operations", "metrics of"):
        process = first or process
        found.setdefault(process, set()).update(re.findall(r"`([^`]+)`", names))
    return found


def with_labels(name: str) -> str:
    labels = labels_of(name)
    return f"{name}{{{','.join(sorted(labels))}}}" if labels else name


@pytest.mark.parametrize("process", ["relay", "worker", "scheduler", "API"])
def test_the_page_names_what_a_process_exposes_and_nothing_else(exposed: Exposed, process: str) -> None:
    told = {name for name in exposed[process] if process != "scheduler" or not name.startswith(OF_THE_ACTORS)}
    assert {re.sub(r"\{.*", "", each) for each in written()[process]} == told
    assert written()[process] == set(map(with_labels, told))


def test_each_process_of_plain_dramatiq_exposes_what_a_worker_does(exposed: Exposed) -> None:
    assert exposed["dramatiq"] == exposed["dramatiq, the other one"] == exposed["worker"]


def test_names_follow_the_conventions(exposed: Exposed) -> None:
    for name, kind in {name: kind for each in exposed.values() for name, kind in each.items()}.items():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
        assert name.endswith("_total") == (kind == "counter")
        if kind == "histogram":
            assert name.endswith("_seconds")


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_query_uses_series_and_labels_that_exist(exposed: Exposed, where: str) -> None:
    exist = series_of({name: kind for each in exposed.values() for name, kind in each.items()})
    asked, had = series(EXPRESSIONS[where]), set()
    assert asked
    for name, selected in asked:
        if name == "process_start_time_seconds":
            continue
        assert name in exist
        has = labels_of(exist[name]) | ({"le"} if name.endswith("_bucket") else set())
        assert selected <= has, name
        had |= has
    assert grouped(EXPRESSIONS[where]) <= had


def test_what_every_relay_counts_is_never_added_up() -> None:
    """Two relays tell the same backlog twice."""
    counted = "outbox_(backlog|oldest|queue|processes|dead_tasks|schedules)"
    for where, expression in EXPRESSIONS.items():
        assert not re.search(rf"\b(sum|avg|count)( by \([\w, ]*\))? ?\({counted}", expression), where


# ---------------------------------------------------------------------- the files by themselves


def test_the_dashboard_can_be_imported_and_each_panel_says_what_it_shows() -> None:
    assert {"uid", "title", "panels", "templating", "schemaVersion"} <= DASHBOARD.keys()
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource"]


def test_no_two_panels_overlap() -> None:
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_how_urgent_it_is_and_leads_to_its_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


def test_there_is_a_runbook_for_each_alert_and_no_other() -> None:
    assert anchors(RUNBOOKS) - {"runbooks"} == {name.lower() for name in ALERTS}


@pytest.mark.parametrize("name", ALERTS)
def test_each_runbook_answers_the_four_questions(name: str) -> None:
    section = page("runbooks").split(f"\n## {name}\n")[1].split("\n## ")[0]
    told = re.findall(r"^\*\*([^*]+)\*\*", section, re.MULTILINE)
    assert told == ["What it means.", "Look.", "Mend.", "What cannot be lost."]


def test_the_runbooks_that_the_dashboard_names_exist() -> None:
    named = [n for panel in DASHBOARD["panels"] for n in re.findall(r"runbook ([^)]+)", panel.get("description", ""))]
    assert {each for names in named for each in names.split(", ")} <= set(ALERTS)


def commands(name: str) -> list[str]:
    return re.findall(r"`(outbox(?: [^`]+)?)`", page(name).replace("\n", " "))


def test_every_command_of_the_runbooks_exists_with_its_options() -> None:
    assert len(commands("runbooks")) > 20
    for each in commands("runbooks"):
        if not re.match(r"outbox\.", each):
            _check(shlex.split(each)[1:], command(), each)


def _check(words: list[str], node: Any, whole: str) -> None:
    while words and (deeper := getattr(node, "commands", {}).get(words[0])):
        node, words = deeper, words[1:]
    assert not hasattr(node, "commands"), f"{whole}: names no command"
    known = {name for each in node.params for name in (*each.opts, *each.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known, whole


def quoted() -> list[str]:
    """What the runbooks have between backticks, over the ends of lines."""
    return re.findall(r"`([^`]+)`", page("runbooks").replace("\n", " "))


def test_what_the_runbooks_quote_of_the_logs_is_said_there() -> None:
    sentences = [each for each in quoted() if re.fullmatch(r"[A-Za-z][a-z]*(?:[:;]? [a-z]+)+", each)]
    words = {"outbox", "rabbitmqctl", "rabbitmq-diagnostics"}
    said = [each for each in sentences if each.split()[0] not in words]
    assert len(said) > 10
    source = "".join(path.read_text() for part in SOURCES for path in sorted((ROOT / part).rglob("*.py")))
    assert [each for each in said if each not in source] == []


def test_the_metrics_of_the_runbooks_exist(exposed: Exposed) -> None:
    named = {each for each in quoted() if re.fullmatch(r"outbox_[a-z_]+", each)}
    assert named
    assert named <= {name for names in exposed.values() for name in names}


def test_the_queries_of_the_runbooks_can_be_made(database_url: str) -> None:
    queries = [each for each in quoted() if each.startswith("select ")]
    assert queries
    with psycopg.connect(database_url) as conn:
        for each in queries:
            conn.execute(each.encode())


# ---------------------------------------------------------------------- by Prometheus itself, where there is one


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed; PROMTOOL may name it")
class TestPromtool:
    def told(self, *words: str | Path) -> None:
        done = subprocess.run([PROMTOOL or "", *map(str, words)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_configuration_and_its_rules_are_understood(self) -> None:
        self.told("check", "config", MONITORING / "prometheus.yaml")

    def test_each_alert_fires_when_it_is_meant_to(self) -> None:
        self.told("test", "rules", MONITORING / "alerts_test.yaml")

    def test_each_query_is_understood(self, tmp_path: Path) -> None:
        rules = [{"record": f"panel:{n}", "expr": each} for n, each in enumerate(EXPRESSIONS.values())]
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        self.told("check", "rules", tmp_path / "rules.yaml")


def test_each_alert_has_a_story_in_which_it_fires() -> None:
    stories = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    fired = {each["alertname"] for story in stories for each in story["alert_rule_test"] if each.get("exp_alerts")}
    silent = {each["alertname"] for each in stories[0]["alert_rule_test"] if not each.get("exp_alerts")}
    assert fired == silent == set(ALERTS)
