"""The table of claims as notebook 10 shows it: every claim, and a command that stands by itself."""

from cpnb.study import tables
from cpnb.study.claims import CLAIMS

PARTS = tables.claims, tables.questions, tables.beyond
PAPER = "its paper, or our arithmetic"


def test_every_claim_has_its_line_and_its_command():
    told, commands = (table([]).data for table in PARTS), tables.commands().data
    told, asked, beyond = told
    assert len(told) + len(asked) + len(beyond) == len(commands) == len(CLAIMS)
    assert list(told.columns) == ["claim", PAPER, "here", "on", "verdict"]
    assert set(told["here"]) == set(asked["here"]) == {"–"}  # there are no records
    assert not told[PAPER].str.contains("unconfirmed").any()
    assert asked["asked"].str.endswith("(unconfirmed)").all() and len(asked) >= 5
    assert not [c for c in commands.to_numpy().ravel() if "`" in c]
    assert any("-m cpnb sweep notebooks/04_finetune.ipynb" in c for c in commands.iloc[:, 1])
