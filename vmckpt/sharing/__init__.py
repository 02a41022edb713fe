"""Equal small pages inside large ones: found, counted, planned; nothing here touches the memory it looks at.

source ─▶ page hashes (`hashes`) ─▶ table of equal pages (`table`) ─▶ the ladder and its parts (`estimate`)
                                                                   └▶ large pages, ranked (`large`) ─▶ plan (`plan`)
what came of it (`outcome`), with what a picture needs beyond (`detail`) ─▶ a page to look at (`report`)

What does not fit is sampled (`scan`, `sample`, `sampled`), kept as sketches (`sketch`, `sketchfile`, `colocate`), spilled to
disk (`engine`) or read by a cluster (`shards`, `cluster`).
"""
