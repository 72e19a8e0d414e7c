"""The host's side: files, progress, interruptions, resumable work, figures."""
