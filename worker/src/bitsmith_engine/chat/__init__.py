"""Answers from a published bundle, token by token: what serves `bitsmith chat` and /v1/chat/completions."""
