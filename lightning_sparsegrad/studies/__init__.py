"""Many runs, compared: what `sparsegrad study` does.

`study` says which arms, settings and seeds there are, `runs` makes an ordinary config of each, `launchers` starts them,
`recorder` notes in each how it went, and `report` compares the `outcomes`: by `statistics`, in `tables` and `pictures`.
"""
