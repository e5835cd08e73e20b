"""Tables, plots and reports made of result files."""

import contextlib
import io
import tempfile
import unittest
import unittest.mock
from pathlib import Path

import reports
import bench_csv
import plot_csv
import summarize_csv
import write_report
import wrk_parse


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def results(self, name, *texts):
        rows = [wrk_parse.parse(text, f"run-{at}") for at, text in enumerate(texts)]
        out = io.StringIO()
        bench_csv.write(rows, out)
        return self.file(name, out.getvalue())

    def test_a_summary_names_the_file_each_row_is_from(self):
        one = self.results("one.csv", reports.WRK_GOOD)
        two = self.results("two.csv", reports.WRK, reports.WRK_BROKEN)
        rows, notes = summarize_csv.gather([one, two])
        self.assertEqual(notes, [])
        table = summarize_csv.table(rows).splitlines()
        self.assertEqual(
            table[0],
            "| label | rps | p95_ms | p99_ms | non2xx | socket_errors | requests | duration_s "
            "| source |",
        )
        self.assertEqual(
            table[2], "| run-0 | 31671.130 | 3.088 | 1020.000 | 0 | 0 | 95115 | 3.000 | one.csv |"
        )
        self.assertEqual(
            table[4], "| run-1 | 31671.130 | – | 1020.000 | 0 | 10 | 95115 | 3.000 | two.csv |"
        )

    def test_files_with_other_columns_are_passed_over_with_a_note(self):
        other = self.file("other.csv", "subject,case\nunary,x\n")
        short = self.file("short.csv", ",".join(bench_csv.COLUMNS) + "\nx,1\n")
        good = self.results("good.csv", reports.WRK_GOOD)
        rows, notes = summarize_csv.gather([other, short, str(self.folder / "absent.csv"), good])
        self.assertEqual([source for _, source in rows], ["good.csv"])
        self.assertEqual(len(notes), 3)

    def test_a_plot_takes_missing_figures_as_missing(self):
        path = self.results("x.csv", reports.WRK, reports.WRK_GOOD)
        labels, p95, p99, rps = plot_csv.series(bench_csv.read(path))
        self.assertEqual(labels, ["run-0", "run-1"])
        self.assertEqual(p95, [None, 3.088])
        self.assertEqual((p99[0], rps[0]), (1020.0, 31671.13))

    def test_a_plot_becomes_a_picture(self):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest("matplotlib is not installed")
        path = self.results("x.csv", reports.WRK, reports.WRK_GOOD)
        out = self.folder / "x.png"
        plot_csv.draw(bench_csv.read(path), "two runs", str(out))
        self.assertEqual(out.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def report(self, *arguments):
        with contextlib.redirect_stderr(io.StringIO()):
            with unittest.mock.patch("sys.argv", ["write_report.py", *arguments]):
                write_report.main()

    def test_a_report_follows_the_template(self):
        wrk = self.file("wrk.txt", reports.WRK_REFUSED)
        run = str(self.folder / "20260102-local")
        self.report(
            *("--run", run, "--target", "ローカル", "--command", "wrk -c64", "--note", "quiet"),
            f"local={wrk}",
        )
        lines = Path(f"{run}.md").read_text(encoding="utf-8").splitlines()
        date = lines.pop(1)
        self.assertRegex(date, r"^- 日時: \d{4}-\d\d-\d\d \d\d:\d\d \S+$")
        self.assertEqual(
            lines,
            [
                "## local",
                "- 対象: ローカル",
                "- コマンド: `wrk -c64`",
                "- 成果物:",
                "  - RPS: 31671.1",
                "  - p95: 3.088 ms / p99: 1020.000 ms",
                "- 失敗: 9 (4xx 6 / 5xx 1 / timeout 0 / 1xx/3xx 2)",
                "- 備考: quiet",
            ],
        )
        self.assertEqual(bench_csv.read(f"{run}.csv")[0]["non2xx"], "9")

    def test_several_runs_end_in_a_table_of_all(self):
        wrk = self.file("wrk.txt", reports.WRK_GOOD)
        run = str(self.folder / "20260102-scaling")
        commands = ("--command", "wrk -c5", "--command", "wrk -c20")
        self.report("--run", run, "--target", "x", *commands, f"c5={wrk}", f"c20={wrk}")
        text = Path(f"{run}.md").read_text(encoding="utf-8")
        self.assertIn("## c20\n", text)
        self.assertIn("`wrk -c20`", text)
        self.assertIn("| c20 | 31671.130 | 3.088 |", text)
        self.assertEqual(len(bench_csv.read(f"{run}.csv")), 2)

    def test_a_report_without_a_command_for_each_run_is_refused(self):
        wrk = self.file("wrk.txt", reports.WRK_GOOD)
        with self.assertRaises(SystemExit):
            self.report("--run", "x", "--target", "x", "--command", "w", f"a={wrk}", f"b={wrk}")


if __name__ == "__main__":
    unittest.main()
