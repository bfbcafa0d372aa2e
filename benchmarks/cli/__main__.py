from benchmarks.cli.app import run

if __name__ == "__main__":  # not in the processes that draw figures
    run()
