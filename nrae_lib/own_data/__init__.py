"""One's own data: the scikit-learn estimator, reading one's files, comparing methods on them."""
