//! The small, strongly consistent store: memory and embedded (openraft over redb).
