"""Draws what recall.csv holds: recall over training steps, and recall over state size.

    plot.py [recall.csv] [recall.png]     needs matplotlib
"""

import collections
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"softmax": "tab:gray", "linear": "tab:orange", "gla": "tab:green", "gsa": "tab:blue"}


def main(source="recall.csv", target="recall.png"):
    curves = collections.defaultdict(lambda: collections.defaultdict(list))  # mixer, step: recall of each seed
    states = {}
    with open(source, newline="") as file:
        for row in csv.DictReader(file):
            curves[row["mixer"]][int(row["step"])].append(float(row["recall"]))
            states[row["mixer"]] = int(row["state"])

    figure, (course, sizes) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for mixer, colour in COLOURS.items():
        if mixer not in curves:
            continue
        steps = sorted(curves[mixer])
        seeds = [curves[mixer][step] for step in steps]
        course.plot(steps, [sum(s) / len(s) for s in seeds], color=colour, label=mixer)
        course.fill_between(steps, [min(s) for s in seeds], [max(s) for s in seeds], color=colour, alpha=0.2)
        sizes.plot([states[mixer]] * len(seeds[-1]), seeds[-1], "o", color=colour, label=mixer)
    course.set(xlabel="training step", ylabel="recall", ylim=(0, 1.02))
    sizes.set(xlabel="state of the mixer, floats", xscale="log")
    course.legend()
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
