"""The emulated VM: what its memory holds before it runs (`profile`, `plan`, `content`, `image`).

profile ──▶ plan.plan_image ──▶ runs of pages ──▶ content.PageMaker ──▶ image.create_image ──▶ a raw image
"""
