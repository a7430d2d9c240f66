"""Scripts that run on a device, with no slmkit there: ``run.py``, and the engine of a backend.

``run.py`` stands beside ``engine.py``, a backend's script, whose function ``open_engine(folder,
artifact, threads)`` returns an object with

    runtime          name and version, as text
    reset()          forget the sequence
    feed(ids)        append tokens, (T,) -> their logits (T, V)
    prefill(ids)     append a prompt as an app does, (T,) -> the logits of its last token (V,)

``artifact``: the manifest's facts of the artifact, as JSON values.
"""
