"""Asks a Prometheus every query of the dashboards and every alert, and draws the dashboards' graphs as PNG files.

usage: dashboards.py URL DASHBOARDS IMAGES MINUTES

Exits with 1 if a query returns no data or an alert cannot be evaluated. Draws only if matplotlib is installed.
"""

import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

STEP = 5  # seconds
DRAWN = ("operator", "queue")


def ask(url, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=30) as answer:
        return json.load(answer)["data"]


def filled_in(expression):
    """Replaces the dashboard's variables as Grafana does for "All"."""
    return expression.replace("$__rate_interval", "30s").replace("$group", ".*")


def legend(template, labels):
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match.group(1), ""), template)


def series(url, panel, minutes):
    """Returns the lines of a panel: legend, times, values."""
    end = time.time()
    lines = []
    for target in panel["targets"]:
        data = ask(url, "query_range", query=filled_in(target["expr"]), start=end - minutes * 60, end=end, step=STEP)
        for result in data["result"]:
            points = [(float(at) - end, float(value)) for at, value in result["values"]]
            if any(not math.isnan(value) for _, value in points):
                lines.append((legend(target["legendFormat"], result["metric"]), points))
    return lines


def draw(dashboard, panels, file):
    from matplotlib import pyplot

    graphs = [(panel, lines) for panel, lines in panels if panel["type"] == "timeseries"]
    rows = math.ceil(len(graphs) / 2)
    figure, axes = pyplot.subplots(rows, 2, figsize=(16, 3.6 * rows), constrained_layout=True)
    figure.suptitle(dashboard["title"], fontsize=15)
    for axis in list(axes.flat)[len(graphs):]:
        axis.axis("off")
    for axis, (panel, lines) in zip(axes.flat, graphs):
        lines = sorted(lines, key=lambda line: -max(value for _, value in line[1] if not math.isnan(value)))[:10]
        for name, points in lines:
            axis.plot([at / 60 for at, _ in points], [value for _, value in points], label=name or panel["title"], linewidth=1.2)
        axis.set_title(panel["title"], fontsize=11)
        axis.set_ylabel(panel["fieldConfig"]["defaults"]["unit"])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("minutes")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper left")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)


def main(url, dashboards, images, minutes):
    empty = []
    for path in sorted(pathlib.Path(dashboards).glob("*.json")):
        dashboard = json.loads(path.read_text())
        panels = [(panel, series(url, panel, float(minutes))) for panel in dashboard["panels"]]
        empty += [f"{path.name}: {panel['title']}" for panel, lines in panels if not lines]
        print(f"{path.name}: {len(panels)} panels, {sum(len(lines) for _, lines in panels)} series")
        if path.stem in DRAWN:
            try:
                draw(dashboard, panels, pathlib.Path(images) / f"{path.stem}.png")
            except ImportError:
                print("matplotlib is not installed: nothing is drawn")
    rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
    empty += [f"alert {rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    firing = sorted(rule["name"] for rule in rules if rule["state"] != "inactive")
    print(f"{len(rules)} alerts evaluated; pending or firing: {', '.join(firing) or 'none'}")
    for finding in empty:
        print(f"no data: {finding}", file=sys.stderr)
    return 1 if empty or not rules else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
