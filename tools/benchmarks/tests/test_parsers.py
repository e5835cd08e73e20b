"""What the reports of wrk and hey become."""

import io
import unittest

import reports  # noqa: F401  (sets the path)
import bench_csv
import hey_parse
import wrk_parse


class Wrk(unittest.TestCase):
    def test_every_column_is_filled_from_a_report_with_the_hook(self):
        row = wrk_parse.parse(reports.WRK_GOOD, "local")
        out = io.StringIO()
        bench_csv.write([row], out)
        self.assertEqual(
            out.getvalue(),
            "label,rps,p50_ms,p75_ms,p90_ms,p95_ms,p99_ms,non2xx,socket_errors,requests,duration_s\n"
            "local,31671.130,0.840,2.270,2.700,3.088,1020.000,0,0,95115,3.000\n",
        )
        self.assertEqual(wrk_parse.objections(reports.WRK_GOOD, row), [])

    def test_without_the_hook_p95_stays_empty(self):
        row = wrk_parse.parse(reports.WRK, "x")
        self.assertIsNone(row["p95_ms"])
        self.assertEqual(row["p99_ms"], 1020.0)

    def test_without_latency_no_percentile_is_invented(self):
        text = reports.WRK.split("  Latency Distribution")[0]
        text += "  10 requests in 1.50m, 1MB read\nRequests/sec: 0.11\n"
        row = wrk_parse.parse(text, "x")
        self.assertIsNone(row["p50_ms"])
        self.assertEqual(row["duration_s"], 90.0)

    def test_the_hook_sees_what_wrk_itself_does_not_count(self):
        row = wrk_parse.parse(reports.WRK_REFUSED, "x")
        self.assertEqual(row["non2xx"], 9)
        objections = wrk_parse.objections(reports.WRK_REFUSED, row)
        self.assertEqual(len(objections), 1)
        self.assertIn("Invalid API key", objections[0])

    def test_refusals_count_without_the_hook_too(self):
        text = reports.WRK_REFUSED.split("p95:")[0]
        self.assertEqual(wrk_parse.parse(text, "x")["non2xx"], 7)
        self.assertIsNone(wrk_parse.failures(text)["4xx"])

    def test_socket_errors_of_all_kinds_add_up_and_object(self):
        row = wrk_parse.parse(reports.WRK_BROKEN, "x")
        self.assertEqual(row["socket_errors"], 10)
        self.assertEqual(
            wrk_parse.objections(reports.WRK_BROKEN, row),
            ["connections failed: connect 1, read 2, write 3, timeout 4"],
        )

    def test_a_run_without_answers_objects(self):
        text = reports.WRK.replace("95115 requests", "0 requests")
        row = wrk_parse.parse(text, "x")
        self.assertEqual(wrk_parse.objections(text, row), ["no request was answered"])

    def test_a_text_that_is_no_report_is_refused(self):
        for text in ("", "unable to connect to 127.0.0.1:1 Connection refused\n"):
            with self.assertRaises(wrk_parse.NotAReport):
                wrk_parse.parse(text, "x")


class Hey(unittest.TestCase):
    def test_a_report_becomes_a_row_of_the_same_columns(self):
        row = hey_parse.parse(reports.HEY, "cloud")
        self.assertEqual(set(row), set(bench_csv.COLUMNS))
        self.assertEqual(row["rps"], 99.6115)
        self.assertAlmostEqual(row["p95_ms"], 1.7)
        self.assertEqual((row["requests"], row["non2xx"], row["socket_errors"]), (200, 10, 5))
        self.assertEqual(len(hey_parse.objections(row)), 2)

    def test_only_good_answers_raise_no_objection(self):
        text = reports.HEY.split("Error distribution")[0].replace("[429]", "[201]")
        self.assertEqual(hey_parse.objections(hey_parse.parse(text, "x")), [])

    def test_a_percentile_of_too_few_answers_stays_empty(self):
        text = reports.HEY.replace("99% in 0.0024", "99% in 0.0000")
        self.assertIsNone(hey_parse.parse(text, "x")["p99_ms"])

    def test_a_text_that_is_no_report_is_refused(self):
        with self.assertRaises(hey_parse.NotAReport):
            hey_parse.parse("hey: command not found", "x")


if __name__ == "__main__":
    unittest.main()
