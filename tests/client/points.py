"""A class and one that is more than it: what a value of the second loses as one of the first."""

from dataclasses import dataclass


@dataclass
class Point:
    x: int


@dataclass
class Point3(Point):
    z: int = 0
