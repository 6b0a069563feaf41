"""Publishing: rows of committed code get into the repository, once; the others are told."""

import math

import pytest

from cpnb.runs import publish as publishing
from cpnb.runs import records


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path / "local"))
    return tmp_path / "local" / "records.jsonl"


@pytest.fixture
def published(tmp_path, monkeypatch):
    path = tmp_path / "results" / "records.jsonl"
    monkeypatch.setattr(publishing, "published_path", lambda: path)
    return path


def test_publish_takes_rows_of_committed_code_once(results, published):
    clean = {"claim": "a", "commit": "c" * 40, "dirty": False, "x": math.nan}
    for row in (clean, clean | {"dirty": True}, clean | {"commit": None, "dirty": None}):
        records.append(row, results)
    first = publishing.publish()
    assert len(first.added) == 1 and len(first.refused) == 2
    assert "not as committed in cccccccccc" in first.refused[0][1]
    assert "unknown" in first.refused[1][1]
    second = publishing.publish(results)
    assert len(second.added) == 0 and len(second.present) == 1
    assert len(records.read(published)) == 1
    assert len(publishing.publish(force=True).added) == 2


def test_command_line_publishes_and_says_what_it_refused(results, published, capsys):
    records.append({"claim": "good", "commit": "c" * 40, "dirty": False}, results)
    assert publishing.main([]) == 0
    records.append({"claim": "bad", "commit": "c" * 40, "dirty": True}, results)
    assert publishing.main([str(results)]) == 1
    assert "refused: bad" in capsys.readouterr().err
    assert publishing.main(["--list"]) == 0
    assert f"{results}: 2 rows" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        publishing.main(["no-such-file"])
