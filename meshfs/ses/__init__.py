"""SCSI Enclosure Services (SES-3): the diagnostic pages of an enclosure as bytes, and what they say. Pure.

    configuration    page 01: which elements the enclosure has, and in which order the other pages list them
    status           page 02: the state of each element; the control page 02 has the same layout
    texts            page 07: the name of each element
    additional       page 0a: the slot number and the SAS addresses of each device slot
    slots            what these pages say together about the slots
    build            the pages of an enclosure that has no SES device of its own

All numbers are big-endian. The pages come from a device, so every length in them may be wrong. Parsing raises only
EnclosurePageError, and allocates no more than a copy of the page.
"""
