"""The polynomial that most shares lie on, where some of them are wrong: decoding a Reed-Solomon code. Pure integers.

Gao 2003, "A New Algorithm for Decoding Reed-Solomon Codes": interpolate all points, then a partial Euclidean division.
Of m points on a polynomial of t coefficients it bears (m - t) / 2 wrong ones, at a cost that grows with m squared:
trying subsets of them costs hundreds of interpolations, and finds nothing where several are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

Polynomial = list[int]
"""Coefficients, the constant first; the last one is not 0."""


def find_polynomial(points: Mapping[int, int], size: int, prime: int) -> Polynomial | None:
    """The polynomial of at most `size` coefficients that all points but (m - size) / 2 lie on; None: there is none.

    Args:
        points: place → value, modulo `prime`; at least `size`.
    """
    product, interpolated = _interpolate(points, prime)
    before, here = product, interpolated
    left, right = Polynomial(), [1]
    while 2 * (len(here) - 1) >= len(points) + size:
        quotient, rest = _divide(before, here, prime)
        before, here = here, rest
        left, right = right, _subtract(left, _multiply(quotient, right, prime), prime)
    found, rest = _divide(here, right, prime)
    return None if rest or len(found) > size else found


def evaluate(polynomial: Polynomial, at: int, prime: int) -> int:
    """Its value at a place."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * at + coefficient) % prime
    return value


def _interpolate(points: Mapping[int, int], prime: int) -> tuple[Polynomial, Polynomial]:
    """The product of all (x - place), and the polynomial through all points (Newton's form, a point at a time)."""
    product, found = [1], Polynomial()
    for place, value in points.items():
        slope = (value - evaluate(found, place, prime)) * pow(evaluate(product, place, prime), -1, prime)
        found = _subtract(found, [-slope * one for one in product], prime)
        product = _multiply(product, [-place, 1], prime)
    return product, found


def _multiply(one: Polynomial, other: Polynomial, prime: int) -> Polynomial:
    if not one or not other:
        return []
    made = [0] * (len(one) + len(other) - 1)
    for place, factor in enumerate(one):
        for further, value in enumerate(other):
            made[place + further] += factor * value
    return _trim([value % prime for value in made])


def _subtract(one: Polynomial, other: Polynomial, prime: int) -> Polynomial:
    made = [0] * max(len(one), len(other))
    made[: len(one)] = one
    for place, value in enumerate(other):
        made[place] -= value
    return _trim([value % prime for value in made])


def _divide(one: Polynomial, other: Polynomial, prime: int) -> tuple[Polynomial, Polynomial]:
    """Quotient and rest; `other` is not 0."""
    rest, inverse = list(one), pow(other[-1], -1, prime)
    quotient = [0] * max(0, len(one) - len(other) + 1)
    for place in reversed(range(len(quotient))):
        factor = rest[place + len(other) - 1] * inverse % prime
        quotient[place] = factor
        for further, value in enumerate(other):
            rest[place + further] = (rest[place + further] - factor * value) % prime
    return _trim(quotient), _trim(rest)


def _trim(polynomial: Polynomial) -> Polynomial:
    while polynomial and not polynomial[-1]:
        polynomial.pop()
    return polynomial
