"""The queueing model against what is known of queues in closed form."""

from __future__ import annotations

import random
import statistics
import unittest

from simulate import Autoscaler, Clock, Outcome, Replica, Request, by_image, by_turns, fleet, new_images, simulate


class ModelTest(unittest.TestCase):
    def mean_wait(self, seconds: float, work: object, load: float) -> float:
        replicas, clock = fleet(1, 0, work)  # type: ignore[arg-type]
        outcome = simulate(replicas, clock, by_turns(), new_images(), 100_000 * seconds, rate=load / seconds, warm_seconds=100 * seconds)
        return (statistics.mean(outcome.latencies) - seconds) / seconds

    def test_equal_times_wait_as_in_the_formula_of_pollaczek_and_khinchine(self) -> None:
        # M/D/1: load / (2 (1 - load)) service times.
        self.assertAlmostEqual(self.mean_wait(0.1, lambda kept: 0.1, 0.7), 0.7 / 0.6, delta=0.06)

    def test_exponential_times_wait_twice_as_long(self) -> None:
        rng = random.Random(1)
        self.assertAlmostEqual(self.mean_wait(0.1, lambda kept: rng.expovariate(10), 0.7), 0.7 / 0.3, delta=0.2)

    def test_closed_clients_keep_every_replica_busy(self) -> None:
        replicas, clock = fleet(3, 0, lambda kept: 0.5)
        outcome = simulate(replicas, clock, by_turns(), new_images(), 100, clients=12)
        self.assertAlmostEqual(outcome.goodput, 6, delta=0.05)
        self.assertEqual(outcome.refused, 0)

    def test_a_full_queue_refuses(self) -> None:
        replicas, clock = fleet(1, 0, lambda kept: 0.1)
        outcome = simulate(replicas, clock, by_turns(), new_images(), 100, rate=30)
        self.assertAlmostEqual(outcome.goodput, 10, delta=0.2)
        self.assertGreater(outcome.refused, 1500)

    def test_an_image_keeps_its_replica_and_few_change_it_when_one_is_added(self) -> None:
        route, wider = by_image(10), by_image(11)
        replicas, _ = fleet(11, 0, lambda kept: 0.1)
        before = [replicas.index(route(replicas, image)) for image in range(2000)]
        self.assertEqual(before, [replicas.index(route(replicas, image)) for image in range(2000)])
        self.assertEqual(set(before), set(range(10)))
        moved = sum(replicas.index(wider(replicas, image)) != place for image, place in enumerate(before))
        self.assertLess(moved, 2000 * 0.2)

    def test_a_bound_spreads_the_load_of_one_image(self) -> None:
        replicas, clock = fleet(4, 10, lambda kept: 0.1)
        simulate(replicas, clock, by_image(4, 1.25), lambda: 7, 60, clients=16)
        busy = [one.busy_seconds for one in replicas]
        self.assertGreater(min(busy), 50)

    def test_a_kept_image_costs_less(self) -> None:
        clock = Clock()
        replica, outcome = Replica(clock, 1, lambda kept: 0.1 if kept else 1.0), Outcome(1)
        for image in (1, 1, 2, 1):
            replica.take(Request(image, 0.0, lambda request, answered: outcome.latencies.append(clock.now)))
        clock.run(10)
        self.assertEqual([round(one, 6) for one in outcome.latencies], [1.0, 1.1, 2.1, 3.1])

    def test_the_autoscaler_doubles_in_a_minute_and_gives_back_one_by_one(self) -> None:
        scaler = Autoscaler(2)
        self.assertEqual([scaler.decide(now, 10) for now in (0, 15, 30, 45, 60, 75)], [4, 4, 4, 4, 8, 8])
        down = [scaler.decide(now, 0.1) for now in range(90, 600, 15)]
        self.assertEqual(down[:15], [8] * 15)
        self.assertTrue(all(before - after <= 1 for before, after in zip(down, down[1:])))
        self.assertLess(down[-1], 8)


if __name__ == "__main__":
    unittest.main()
