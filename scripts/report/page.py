"""The page: everything that is shown is gathered, each photograph is read once, then the template is filled."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import Final

from feature_extraction.class_names import names_in, read_names
from feature_extraction.config import Grid
from feature_extraction.drawing import PALETTE
from feature_extraction.errors import UsageError
from feature_extraction.names import printable
from feature_extraction.places import checkpoint_folders, to_type

from .compared import comparison_of
from .files import FeatureEntry, entries_in, splits_of
from .gallery import Album, albums_of, failures_of
from .nearest import Nearest
from .options import PageOptions
from .photographs import Photographs
from .plots import Plots
from .template import render
from .verdict import verdict, warnings_of
from .view import Sprites, View
from .vocabulary_rows import WordList, choose_words, word_lists
from .words import Postings, Vocabulary, chosen, vocabularies_in

FAILURES: Final = 12
"""Failures of a file that are shown with a thumbnail; their number and the list's place are told of the others."""


def page_of(options: PageOptions) -> str:
    """The whole page as HTML. Raises a KitError for what a user can mend; damaged files are told of in the page."""
    if not options.datasets.is_dir():
        raise UsageError(f"{printable(options.datasets)} is not a folder: --datasets names the one with COCO, VG, ...")
    datasets = options.datasets.resolve()
    names = read_names(options.names) if options.names else names_in(datasets, *checkpoint_folders())
    entries = entries_in(datasets)
    splits = splits_of(entries)
    vocabularies, unusable = vocabularies_in(datasets, entries)
    vocabulary = chosen(vocabularies, options.vocabulary)
    postings = Postings(vocabulary)
    files = {s.label: s.files[Grid.name] for s in splits if Grid.name in s.files}
    with closing(Photographs(datasets, options.images)) as photographs:
        albums = albums_of(splits, options.per_file, photographs, vocabulary, postings)
        lists, nearest = _words(options, vocabulary, postings, albums, files, photographs)
        compared = comparison_of(vocabulary, files, photographs)
        failures = failures_of(entries, FAILURES, photographs)
        photographs.load()
    there = {row.word for words in lists for row in words.rows}
    view = View(photographs, Sprites(), Plots(), names)
    return render(
        datasets=datasets,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        verdict=verdict(entries, vocabulary),
        warnings=warnings_of(entries, vocabulary) + unusable,
        synthetic=any(e.synthetic for e in entries),
        entries=entries,
        failures={name: view.failures(found, datasets) for name, found in failures.items()},
        albums=[view.album(album) for album in albums],
        class_names=names is not None,
        colours=len(PALETTE),
        vocabulary=vocabulary,
        others=[v for v in vocabularies if v is not vocabulary],
        lists=[(words.title, [view.row(row, there) for row in words.rows]) for words in lists],
        nearest=nearest,
        compared=compared,
        pairs=[] if compared is None else [(p, [view.compared_word(w) for w in p.words]) for p in compared.farthest],
        alone={}
        if compared is None
        else {s: [view.compared_word(w) for w in some] for s, some in compared.alone.items()},
        plots=view.vocabulary_plots(vocabulary),
        sprites=view.sprites.images,
    )


def _words(
    options: PageOptions,
    vocabulary: Vocabulary | None,
    postings: Postings,
    albums: list[Album],
    files: dict[str, FeatureEntry],
    photographs: Photographs,
) -> tuple[list[WordList], Nearest]:
    if vocabulary is None:
        if options.words:
            raise UsageError(f"--words: there is no vocabulary yet: {to_type('kmeans')}")
        return [], Nearest({}, "")
    grids = [card.words for album in albums for card in album.cards if card.words is not None]
    chosen_words = choose_words(vocabulary, options.words, grids)
    limit = max(options.rows, len(options.words))
    return word_lists(chosen_words, limit, postings, vocabulary, files, photographs)
