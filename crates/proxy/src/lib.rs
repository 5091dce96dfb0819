//! The proxy: listeners, routing, holding, re-homing. Knows neither store nor engine.
