"""One module a revision, named by the release that introduced it; released ones never change."""
