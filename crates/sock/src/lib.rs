//! Raw sockets, TUN and batched datagrams: the only room with unsafe code.
