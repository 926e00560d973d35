from pathlib import Path

from tests.support.running import several, site


async def test_an_import_into_three_stores(dsn: str, directory: Path) -> None:
    async with site(dsn, directory, several(directory)) as s:
        image = await s.image()
        assert await s.stage(image, b"0" * 1024) == 204
        assert await s.do_import(image, all_stores=True) == 202
        shown = await s.ended(image)
        assert shown["stores"] == "cheap,fast,reliable"
        assert shown["status"] == "active"
        await s.settled()
        assert not s.files("staging")
