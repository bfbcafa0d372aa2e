from benchmarks.cli.app import run

run()
