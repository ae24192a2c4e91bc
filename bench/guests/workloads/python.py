"""A recommender: vectors of items, their records, and a table of orders, all in memory.

A request takes a customer, ranks the popular part of the items for them and one other, looks up the
records of the best, and sums up their orders.
"""

import json
import random
import zlib

import numpy

ITEMS = 60_000
DIMENSIONS = 128
SHARDS = 24
POPULAR_SHARDS = 8
ORDERS = 1_500_000
WORDS = ("red", "small", "light", "steel", "round", "new", "plain", "soft", "deep", "quiet")


class Item:
    """What the shop knows about one item."""

    def __init__(self, number: int, choice: random.Random) -> None:
        self.name = " ".join(choice.choices(WORDS, k=3)) + f" {number}"
        self.price = choice.randrange(100, 100_000)
        self.tags = choice.sample(WORDS, 2)


class Shop:
    def __init__(self) -> None:
        numbers = numpy.random.default_rng(1)
        choice = random.Random(2)
        self._vectors = numbers.standard_normal((ITEMS, DIMENSIONS), numpy.float32)
        self._items = {number: Item(number, choice) for number in range(ITEMS)}
        self._order_item = numbers.integers(0, ITEMS, ORDERS, numpy.int32)
        self._order_item.sort()
        self._order_count = numbers.integers(1, 5, ORDERS, numpy.int16)

    def request(self, seed: int) -> int:
        choice = random.Random(seed)
        bought = choice.sample(range(ITEMS), 8)
        customer = self._vectors[bought].mean(axis=0)
        width = ITEMS // SHARDS
        ranked: list[tuple[float, int]] = []
        for shard in [*range(POPULAR_SHARDS), choice.randrange(POPULAR_SHARDS, SHARDS)]:
            scores = self._vectors[shard * width:(shard + 1) * width] @ customer
            best = numpy.argpartition(scores, -50)[-50:]
            ranked += [(round(float(scores[row]), 3), shard * width + int(row)) for row in best]
        answer = []
        for score, number in sorted(ranked, reverse=True)[:100]:
            item = self._items[number]
            first, last = numpy.searchsorted(self._order_item, [number, number + 1])
            answer.append({"name": item.name, "price": item.price, "tags": item.tags,
                           "score": score, "sold": int(self._order_count[first:last].sum())})
        return zlib.crc32(json.dumps(answer).encode())


def main() -> None:
    shop = Shop()
    print("ready", flush=True)
    while True:
        seed = int(input().split()[1])
        print("done", seed, shop.request(seed), flush=True)


main()
