//! Sans-IO codecs for the protocols Holdfast speaks: MySQL packets, handshake, result framing.
