-- Departures with the weather of the hour that ended at least two hours before the scheduled time.
SELECT
    d.flight_id,
    d.carrier,
    d.distance_miles,
    d.scheduled_departure,
    d.recorded_at,
    CAST(d.delay_minutes AS DOUBLE) AS delay_minutes,
    d.delay_minutes > 15 AS late,
    w.temperature_f,
    w.humidity_percent,
    w.wind_speed_mph,
    w.wind_gust_mph,
    w.precipitation_in,
    w.visibility_miles
FROM departures AS d
JOIN airport_weather AS w
    ON w.observed_at = date_trunc('hour', d.scheduled_departure) - INTERVAL 3 HOUR
WHERE d.delay_minutes IS NOT NULL
