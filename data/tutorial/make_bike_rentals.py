"""Write the two deliveries of the tutorial: invented bike rentals, the same bytes at every run.

    python data/tutorial/make_bike_rentals.py FOLDER

`bike_rentals.csv` holds five stations on each day of 2024 and 2025. `bike_rentals_january.csv` holds January 2026, with
three rows that no real station can have: a negative time, a day in 2062 and a district that does not exist.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

HEADER = (
    "station,day,planned_days_ahead,district,docks,forecast_celsius,forecast_rain_mm,measured_rain_mm,holiday,"
    "hours_ridden"
)
STATIONS = {
    "market_square": ("centre", 40),
    "old_harbour": ("riverside", 28),
    "library": ("campus", 32),
    "main_station": ("centre", 60),
    "botanic_garden": ("riverside", 18),
}
WEEKEND = {"centre": 0.8, "riverside": 1.5, "campus": 0.35}
HOLIDAYS = {(1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25)}


def rows(first: date, days: int, draw: random.Random) -> Iterator[str]:
    """Yield one line for each station and day."""
    for number in range(days):
        day = first + timedelta(days=number)
        celsius = 12 - 10 * math.cos(2 * math.pi * (day.timetuple().tm_yday - 20) / 365) + draw.gauss(0, 3)
        rain = draw.expovariate(0.25) if draw.random() < 0.35 else 0.0
        holiday = (day.month, day.day) in HOLIDAYS
        for station, (district, docks) in STATIONS.items():
            ahead = draw.randint(1, 5)
            forecast = celsius + draw.gauss(0, 0.4 * ahead)
            forecast_rain = max(0.0, rain + draw.gauss(0, 0.3 * ahead)) if rain or draw.random() < 0.1 else 0.0
            calendar = WEEKEND[district] if day.weekday() > 4 or holiday else 1.0
            warmth = max(0.15, min(1.0, (celsius + 2) / 24))
            hours = docks * 2.4 * calendar * warmth * math.exp(-0.09 * rain) * draw.uniform(0.93, 1.07)
            yield (
                f"{station},{day},{ahead},{district},{docks},{forecast:.1f},{forecast_rain:.1f},{rain:.1f},"
                f"{'true' if holiday else 'false'},{hours:.1f}"
            )


def january(draw: random.Random) -> list[str]:
    """Return the lines of January 2026, three of which are wrong."""
    lines = list(rows(date(2026, 1, 1), 31, draw))
    for number, column, value in ((20, 9, "-4.0"), (61, 1, "2062-01-13"), (118, 3, "airport")):
        cells = lines[number].split(",")
        cells[column] = value
        lines[number] = ",".join(cells)
    return lines


def main(folder: Path) -> None:
    """Write both files into a folder."""
    draw = random.Random(19)  # noqa: S311 - invented data, no secret
    history = list(rows(date(2024, 1, 1), 731, draw))
    for name, lines in (("bike_rentals.csv", history), ("bike_rentals_january.csv", january(draw))):
        (folder / name).write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
