"""Tasks in several modules: named, found, and imported when they are needed."""

import threading
from typing import Any

import pytest

import asyncq
from asyncq.app import App
from asyncq.errors import ConfigurationError
from tests.client.modules import Project, project

__all__ = ["project"]

APP = """
    import asyncq
    app = asyncq.App("memory://SHOP", include=["SHOP.tasks.mail", "SHOP.tasks.billing"])
"""
MAIL = """
    from SHOP.app import app
    from SHOP.tasks import billing

    @app.task
    async def send(to: str) -> str:
        return await (await billing.charge.enqueue(to, 0)) if to else "nobody"
"""
BILLING = """
    from SHOP.app import app
    from SHOP.tasks import mail

    @app.task
    async def charge(to: str, amount: int) -> str:
        if amount:
            await mail.send.enqueue("")
        return f"{to} pays {amount}"
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """An app whose modules of tasks import it and each other."""
    project.make_package("shop", "shop/tasks")
    project.write(shop__app=APP, shop__tasks__mail=MAIL, shop__tasks__billing=BILLING)
    return project


async def test_modules_that_import_the_app_and_each_other_are_included(shop: Project) -> None:
    app: App = shop.load("shop.app").app

    async with app, app.worker():
        result = await app.tasks[f"{shop.package}.tasks.mail.send"].enqueue("ann")

        assert await result.get(timeout=10) == "ann pays 0"


@pytest.mark.parametrize("first", ["shop.app", "shop.tasks.mail", "shop.tasks.billing"])
def test_any_of_them_may_be_imported_first(shop: Project, first: str) -> None:
    shop.load(first)

    app: App = shop.load("shop.app").app
    assert {name.rpartition(".")[2] for name in app.tasks} == {"send", "charge"}


def test_making_the_app_and_looking_at_it_imports_nothing(shop: Project) -> None:
    shop.write(shop__tasks__mail="raise RuntimeError('imported too early')")

    app: App = shop.load("shop.app").app

    assert "0 tasks" in repr(app)


async def test_connecting_imports_them(shop: Project) -> None:
    app: App = shop.load("shop.app").app

    async with app:
        assert "2 tasks" in repr(app)


def test_a_client_without_a_loop_imports_them(shop: Project) -> None:
    app: App = shop.load("shop.app").app

    with app.sync() as client:
        client.enqueue(asyncq.Signature[str](f"{shop.package}.tasks.billing.charge", ("ann", 0)))


def test_the_queues_of_their_tasks_are_known(shop: Project) -> None:
    shop.write(
        shop__tasks__mail="""
            from SHOP.app import app
            @app.task(queue="letters")
            async def send() -> None: ...
        """
    )

    assert "letters" in shop.load("shop.app").app.queues.declared


def test_a_module_that_asks_for_the_tasks_as_it_is_imported_sees_those_so_far(
    shop: Project,
) -> None:
    shop.write(shop__tasks__billing="from SHOP.app import app\nseen = list(app.tasks)")
    shop.write(shop__tasks__mail=MAIL.replace("from SHOP.tasks import billing", ""))

    app: App = shop.load("shop.app").app

    assert list(app.tasks) == shop.load("shop.tasks.billing").seen


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def (", "SyntaxError"),
    ],
)
async def test_a_module_that_cannot_be_imported_is_named_with_its_error(
    shop: Project, text: str, says: str
) -> None:
    shop.write(shop__tasks__billing=text)
    shop.write(shop__tasks__mail=MAIL.replace("from SHOP.tasks import billing", ""))
    app: App = shop.load("shop.app").app

    with pytest.raises(ConfigurationError, match=r"\.tasks\.billing failed") as caught:
        async with app:
            pass

    assert says in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_module_that_is_not_there_is_named_with_the_one_that_was_meant(shop: Project) -> None:
    app = App("memory://", include=[f"{shop.package}.tasks.mial"])

    with pytest.raises(ConfigurationError, match=r"no module .*tasks\.mial; did you mean .*mail"):
        assert app.tasks


def test_an_import_that_failed_is_tried_again(shop: Project) -> None:
    shop.write(shop__tasks__billing=BILLING + "\n    1 / 0\n")
    app: App = shop.load("shop.app").app
    with pytest.raises(ConfigurationError, match="division by zero"):
        assert app.tasks

    with pytest.raises(ConfigurationError, match="division by zero"):
        assert app.tasks  # and not that there are two tasks of one name
    shop.write(shop__tasks__billing=BILLING)

    assert len(app.tasks) == 2


@pytest.mark.parametrize(
    ("include", "says"),
    [
        ("shop.tasks", r"give a list of names, as in \['shop.tasks'\]"),
        ([".tasks"], "write it in full"),
        (["shop/tasks.py"], "as in 'shop.tasks'"),
        ([""], "no module's name"),
        ([threading], "by their names"),
    ],
)
def test_what_can_be_no_modules_name_is_refused_where_it_is_written(
    include: Any, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        App("memory://", include=include)


def test_threads_that_need_the_tasks_at_once_all_see_them_whole(shop: Project) -> None:
    shop.write(
        shop__tasks__billing="import time; time.sleep(0.05)\n" + "\n".join(BILLING.split("\n    "))
    )
    app: App = shop.load("shop.app").app
    seen: list[int] = []
    ready = threading.Barrier(8)

    def look() -> None:
        ready.wait()
        seen.append(len(app.tasks))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert seen == [2] * 8


TASK = """
    from SHOP.app import app
    @app.task(name="NAME")
    async def work() -> None: ...
"""


@pytest.fixture
def sprawling(project: Project) -> Project:
    """Tasks at every depth, behind links and in folders that say nothing of packages."""
    project.make_package("shop", "shop/mail", "shop/stock", "shop/stock/tasks")
    project.write(
        shop__app='import asyncq\napp = asyncq.App("memory://")',
        shop__tasks=TASK.replace("NAME", "top"),
        shop__mail__tasks=TASK.replace("NAME", "mail"),
        shop__mail__views=TASK.replace("NAME", "view"),
        shop__stock__tasks__count=TASK.replace("NAME", "count"),
        shop__plain__tasks=TASK.replace("NAME", "plain"),  # without an __init__.py
    )
    folder = project.folder / project.package
    (folder / "__main__.py").write_text("raise SystemExit('a program was imported')")
    (folder / "mail" / "loop").symlink_to(folder, target_is_directory=True)
    return project


def test_what_is_called_tasks_below_a_package_is_found(sprawling: Project) -> None:
    app: App = sprawling.load("shop.app").app

    app.discover(sprawling.package)

    assert set(app.tasks) == {"top", "mail", "count", "plain"}


def test_modules_of_another_name_or_all_of_them_are_found(sprawling: Project) -> None:
    app: App = sprawling.load("shop.app").app

    app.discover(sprawling.package, related="views")
    assert set(app.tasks) == {"view"}
    app.discover(sprawling.package, related=None)

    assert set(app.tasks) == {"top", "mail", "count", "plain", "view"}


def test_discovering_twice_imports_once(sprawling: Project) -> None:
    app: App = sprawling.load("shop.app").app

    app.discover(sprawling.package)
    found = list(app.tasks)
    app.discover(sprawling.package, f"{sprawling.package}.mail")

    assert list(app.tasks) == found


def test_only_a_package_has_modules_below(shop: Project) -> None:
    app = App("memory://")
    app.discover(f"{shop.package}.app")

    with pytest.raises(ConfigurationError, match=r"is a module and no package; write App\(include"):
        assert app.tasks


@pytest.mark.parametrize("related", ["a.b", "", 5])
def test_what_can_be_no_part_of_a_name_is_refused(related: Any) -> None:
    with pytest.raises(ConfigurationError, match="related="):
        App("memory://").discover("shop", related=related)
