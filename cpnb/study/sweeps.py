"""A grid of runs as points of a trade-off: accuracy lost against speed won."""

from __future__ import annotations

from cpnb.study.selection import lost


def points(table) -> list[dict]:
    """Runs as `figures.tradeoff` draws them: drops in percentage points.

    Parameters
    ----------
    table : pandas.DataFrame
        Finished runs of notebook 04, as `cpnb.records.load` gives them.

    Returns
    -------
    list of dict
        Keys: label (ranks, conv2 first), speedup and bound (×), drop_before and drop_after.
    """
    return [
        {
            "label": f"{row['rank_conv2']}/{row['rank_conv3']}",
            "speedup": row["speedup"],
            "bound": row["bound"],
            "drop_before": lost(row, "decomposed"),
            "drop_after": lost(row),
        }
        for row in table.to_dict("records")
    ]
