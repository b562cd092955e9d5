"""Speech: audio to text with a model that hears, and what the text is worth.

The stages are modules: `loading` finds a model, `decoding` keeps it within bounds, `transcribing` takes audio of any
length, `evaluating` scores manifests, `subtitles` writes what was heard.
"""
