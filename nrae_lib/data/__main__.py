"""``python -m nrae_lib.data mnist cifar10``: fetch image sets and say what is there."""

import sys

from nrae_lib.data.datasets import IMAGE_SETS, available, load, root


def main(names: list[str]) -> int:
    """Fetch ``names`` if they are not there, and print a line on every set; 0 if all of ``names`` can be read."""
    if unknown := [name for name in names if name not in IMAGE_SETS]:
        print(f"unknown image set {unknown[0]!r}: choose among {', '.join(IMAGE_SETS)}", file=sys.stderr)
        return 2
    failed = 0
    print(f"Image sets in {root()}:")
    for name in names or IMAGE_SETS:
        line = "there" if available(name) else "missing"
        try:
            if names:
                images = load(name, download=True)
                line = f"{len(images.train_images):,} training and {len(images.test_images):,} test images ({images.origin})"
        except (ValueError, OSError, ImportError) as error:
            line, failed = str(error), 1
        print(f"  {name:9} {line}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
