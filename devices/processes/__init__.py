"""A process and its worker: started, asked over pipes, and ended, whatever happens to it."""
