"""A proxy whose connections a test can cut."""

import socket
import threading
from contextlib import contextmanager


class Link:
    """Forwards bytes between the connections of a listener and new connections to a target."""

    def __init__(self, listener, connect):
        self.listener, self.connect = listener, connect
        self.is_cut, self.open, self.lock = False, set(), threading.Lock()
        self._start(self._accept)

    @staticmethod
    def _start(target, *arguments):
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return  # The listener is closed.
            try:
                far = self.connect()
            except OSError:
                near.close()
                continue
            with self.lock:
                is_cut = self.is_cut
                if not is_cut:
                    self.open |= {near, far}
            if is_cut:
                self._close({near, far})
            else:
                self._start(self._forward, near, far)
                self._start(self._forward, far, near)

    def _forward(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass  # The link was cut, or a peer has closed its connection.
        self._close({source, sink})

    def _close(self, sockets):
        with self.lock:
            self.open -= sockets
        for connection in sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # The connection is closed already.
            connection.close()

    def _close_all(self):
        with self.lock:
            connections = set(self.open)
        self._close(connections)

    @contextmanager
    def cut(self):
        """Closes all connections, and closes each new connection at once."""
        with self.lock:
            self.is_cut = True
        self._close_all()
        try:
            yield
        finally:
            self.is_cut = False

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._close_all()
