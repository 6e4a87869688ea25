"""HTML documents in which ``</head>`` stands where it ends no head, by combination."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

END: Final = b"</head ><img src=x onerror=a()>"
"""What a visitor writes who knows where a tag would be put."""

_BEGINNINGS: Final = (
    b"<!doctype html><html lang=a><head>",
    b"\xef\xbb\xbf<!DOCTYPE html>\r\n<!-- </head> --><html>\n<head id=a>\n",
    b"<html>",
    b"<!doctype html>",
    b'<!doctype html><html data-a="' + END + b'">',
    b"<?xml version='1.0'?><html><head/>",
)

INSIDE: Final = (
    b'<meta content="Shop of ' + END + b'">',
    b"<meta content='" + END + b"'/>",
    b'<meta content = \n"' + END + b'"name=a>',
    b"<meta a'=\"" + END + b'" b>',
    b'<meta ="' + END + b'">',
    b"<meta a= >",
    b'<meta a/="' + END + b'">',
    b"<meta content=</head>",
    b"<meta content=a'" + END,
    b"<link rel=a href='\"" + END + b"\"'>",
    b"<!--" + END + b"-->",
    b"<!-->" + b"<meta name=a>",
    b"<!--->" + b"<meta name=a>",
    b"<!--a--!><meta name=a>",
    b"<!--a--!-->" + b"<meta name=a>",
    b"<!--a<!-->" + b"<meta name=a>",
    b"<!----!>" + b"<meta name=a>",
    b"<!-- --!- " + END + b"-->",
    b"<!a " + b"</head>",
    b"<![CDATA[ </head ><meta name=a> ]]>",
    b"<?php </head>",
    b"</ </head>",
    b"</><meta name=a>",
    b'</p></template></div "' + b">",
    b"<title>" + END + b"</title>",
    b"<title></titles" + END + b"</TITLE\n a='" + END + b"'>",
    b"<style>a{}<!--" + END + b"</style>",
    b"<style></style/><meta name=a>",
    b"<noframes>" + END + b"</noframes>",
    b"<script>'" + END + b"'</script>",
    b"<script><!--" + END + b"</script>",
    b"<script><!--<script>" + END + b"</script>" + END + b"--></script>",
    b"<script><!--><script>" + END + b"</script>",
    b"<script><!--<script></script></script><meta name=a>",
    b"<script><!--<script >--></script a='" + END + b"'>",
    b"<script><!--<scripts>" + END + b"</script>",
    b"<template>" + END + b"</template>",
    b"<template><svg><style>" + END + b"</style></svg></template>",
    b"<noscript><link a='" + END + b"'></noscript>",
    b"<noscript><style>" + END + b"</style></noscript>",
    b"<plaintext>" + END,
    b"<textarea>" + END + b"</textarea>",
    b"<xmp>" + END + b"</xmp>",
    b"<iframe>" + END + b"</iframe>",
    b"<noembed>" + END + b"</noembed>",
    b"<svg><title>" + END + b"</title></svg>",
    b"<p title='" + END + b"'>",
    b"text " + END,
    b"&#32;<meta name=a>",
    b"\xef\xbb\xbf<meta name=a>",
    b"\0<meta name=a>",
    b"<me\0ta a='" + END + b"'>",
    b"<meta a='\0" + END + b"'>",
    b"<head id=b data-a='" + END + b"'>",
    b"<html class='" + END + b"'>",
    b"<br/" + b">",
    b"</br>",
    b"<!doctype a '" + b">",
    b"<frameset>",
    b"<base href=/a>",
)
"""What can stand in a head, or looks like it."""

_ENDINGS: Final = (
    b"</head><body class=a>b</body></html>",
    b"</HEAD\n/ ><body>b",
    b"<body a='" + END + b"'>b",
    b"<p>b",
)


def documents() -> Iterator[bytes]:
    """Return each beginning with everything inside and each ending; some 1,400."""
    for beginning in _BEGINNINGS:
        for inside in INSIDE:
            for ending in _ENDINGS:
                yield beginning + inside + ending
