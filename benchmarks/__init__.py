"""Programs that measure. Each prints a table and writes JSON; none is a test.

    python -m benchmarks.model          the engine against the network as it was published
    python -m benchmarks.startup        seconds from exec to the first claim
    python -m benchmarks.gpu            everything that needs a GPU, in eight minutes
    (each takes --help; benchmarks/README.md has the figures and the commands behind them)

A benchmark is made of three parts:

    from benchmarks.report import Report
    from benchmarks.timing import alternate

    timings = alternate({"reference": run_reference, "engine": run_engine}, rounds=5)
    report = Report("model", keys=("network", "size"))
    report.add(network="lama-fourier", size="512x512", seconds=timings.median("engine"),
               ratio=timings.ratio("engine", "reference"))
    report.finish()

`timing.alternate` runs the competitors in turns, ABAB…, so that what else the machine does hits
all of them alike, and returns `Timings`: medians, and the median of the ratios *within* a round.

`report.Report("model")` collects rows, prints them as a table, and writes
`benchmarks/results/model.json` together with `machine.describe()`. Rows carry the names that
identify them (`keys`): a row that is measured again replaces the old one, so that a table can be
put together from several short runs on one machine.
"""
