"""Reading how many processes the kernel's out-of-memory killer has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from site_agent.trainers import oom

V1 = "4:memory:/konsil\n3:cpuset:/\n"
V2 = "0::/system.slice/konsil-site.service\n"
EVENTS_V2 = "sys/fs/cgroup/system.slice/konsil-site.service/memory.events"
EVENTS_V1 = "sys/fs/cgroup/memory/konsil/memory.oom_control"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(oom, "ROOT", tmp_path)
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / {"groups": "proc/self/cgroup", "v2": EVENTS_V2, "v1": EVENTS_V1, "machine": "proc/vmstat"}[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_the_services_own_control_group_is_asked_first(root: Path) -> None:
    write(
        root,
        groups=V1 + V2,
        v2="low 0\noom 9\noom_kill 2\noom_group_kill 7\n",
        v1="oom_kill 3\n",
        machine="oom_kill 4\n",
    )
    assert oom.count_kills() == 2


def test_control_groups_of_version_1_are_asked_where_there_are_no_others(root: Path) -> None:
    write(root, groups=V1 + "0::/\n", v1="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", machine="oom_kill 4\n")
    assert oom.count_kills() == 3


def test_the_machines_count_is_the_last_resort(root: Path) -> None:
    write(root, groups=V1 + V2, machine="nr_free_pages 12\noom_kill 4\n")
    assert oom.count_kills() == 4


def test_where_nothing_can_be_read_nothing_is_claimed(root: Path) -> None:
    assert oom.count_kills() is None
    write(root, groups=V2, machine="nr_free_pages 12\n")
    assert oom.count_kills() is None
