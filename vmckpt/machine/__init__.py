"""The emulated VM: what its memory holds before it runs (`profile`, `content`, `image`).

profile ──▶ image.plan_image ──▶ runs of pages ──▶ content.fill_pages ──▶ image.create_image ──▶ a raw image
"""
