"""What the long run reads and how it judges."""

import unittest

import reports
import watch_router

BEFORE = watch_router.sample(reports.METRICS, 0.0, None)


def looks(count, **changes):
    """Looks that all serve well; `changes` are functions of a look's number."""
    return [
        {**BEFORE, "answers": 1000 + at, **{name: change(at) for name, change in changes.items()}}
        for at in range(count)
    ]


def findings(under_load, after=None, load_succeeded=True):
    after = after or {**BEFORE, "in_flight": 0}
    return watch_router.judge(BEFORE, under_load, after, load_succeeded)


def complaints(*arguments, **options):
    return [what for what, _, is_good in findings(*arguments, **options) if not is_good]


class Reading(unittest.TestCase):
    def test_a_look_adds_up_series_and_tells_refusals_from_clients_that_left(self):
        self.assertEqual(
            BEFORE,
            {
                "at_s": 0.0,
                "rss_bytes": 31842304,
                "open_fds": 93,
                "connections": 51,
                "in_flight": 12,
                "answers": 509,
                "non2xx": 5,
                "disconnects": 4,
                "node_failures": 6,
                "retries": 0,
                "panics": 0,
            },
        )

    def test_what_the_kernel_says_of_the_process_comes_before_the_metrics(self):
        seen = watch_router.sample(reports.METRICS, 1.26, (4096, 7))
        self.assertEqual((seen["rss_bytes"], seen["open_fds"], seen["at_s"]), (4096, 7, 1.3))

    def test_only_sockets_that_listen_on_the_port_are_taken(self):
        head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
        row = " {}: 0100007F:{} 00000000:0000 {} 00000000:00000000 00:00000000 00000000 0 0 {} 1"
        table = "\n".join(
            [head, row.format(0, "1F90", "0A", 11), row.format(1, "1F90", "01", 12)]
            + [row.format(2, "1F91", "0A", 13)]
        )
        self.assertEqual(watch_router.listening(table, 8080), {"11"})


class Judging(unittest.TestCase):
    def test_a_router_that_stays_as_it_was_is_stable(self):
        self.assertEqual(complaints(looks(20)), [])

    def test_memory_that_keeps_growing_is_found(self):
        grows = looks(20, rss_bytes=lambda at: (30 + at) << 20)
        self.assertEqual(complaints(grows), ["resident memory, first to last quarter"])

    def test_memory_that_fills_once_is_no_leak(self):
        fills = looks(20, rss_bytes=lambda at: (10 if at == 0 else 60) << 20)
        self.assertEqual(complaints(fills), [])

    def test_descriptors_that_keep_growing_are_found(self):
        grows = looks(20, open_fds=lambda at: 100 + 2 * at)
        self.assertEqual(complaints(grows), ["open descriptors, first to last quarter"])

    def test_one_refusal_disconnect_failure_or_panic_is_enough(self):
        for name, what in (
            ("non2xx", "answers that were not 2xx"),
            ("disconnects", "disconnected clients"),
            ("node_failures", "node failures"),
            ("panics", "panics"),
        ):
            seen = looks(20, **{name: lambda at, name=name: BEFORE[name] + int(at == 19)})
            self.assertEqual(complaints(seen), [what])

    def test_requests_still_in_flight_afterwards_are_found(self):
        self.assertEqual(
            complaints(looks(20), after={**BEFORE, "in_flight": 1}), ["in flight afterwards"]
        )

    def test_a_load_that_failed_or_did_nothing_is_no_success(self):
        self.assertEqual(complaints(looks(20), load_succeeded=False), ["load"])
        self.assertEqual(
            complaints(looks(20, answers=lambda at: BEFORE["answers"])), ["answers"]
        )
        self.assertEqual(complaints(looks(1)), ["looks"])

    def test_the_report_shows_every_finding(self):
        text = watch_router.report(findings(looks(20)), looks(20), "/metrics")
        self.assertEqual(len(text.splitlines()), 2 + len(findings(looks(20))))
        self.assertNotIn("NOT OK", text)


if __name__ == "__main__":
    unittest.main()
