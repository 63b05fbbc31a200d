"""Other people's methods, each behind one function, on the same data and at the same bits as ours."""
