"""Projects. Whoever runs the installation makes them; a project's own keys see theirs."""

from typing import Annotated

from bitsmith_core.errors import NotFound
from bitsmith_core.identity import projects
from bitsmith_core.ids import ProjectId, is_project_id
from fastapi import APIRouter, Depends, Path

from bitsmith_api.deps import Audited, Bounds, FromCaller, Transaction, checked_cursor, require
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.errors import documented
from bitsmith_api.schemas.identity import NewProject, Project, ProjectChange, ProjectList

router = APIRouter(prefix="/v1/projects", tags=["Projects"], route_class=Audited)


async def _project_id(project_id: Annotated[str, Path(examples=["proj-default"])], caller: FromCaller) -> ProjectId:
    """Another project is not there, except for whoever runs the installation."""
    if not is_project_id(project_id) or (project_id != caller.project and not caller.is_installation):
        raise NotFound(f"there is no project {project_id}")
    return ProjectId(project_id)


PathProjectId = Annotated[ProjectId, Depends(_project_id)]


@router.post(
    "",
    summary="Create a project",
    dependencies=[require("projects:write")],
    responses=documented(400, 401, 409, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(NewProject),
)
def create_project(new: Annotated[NewProject, Depends(json_body(NewProject))], tx: Transaction) -> Project:
    """Only with the bootstrap key. Make its first key with the header `X-Bitsmith-Project`."""
    limits = new.limits.model_dump(exclude_none=True)
    return Project.of(projects.create(tx, name=new.name, limits=limits, weight=new.weight))


@router.get(
    "", summary="List projects", dependencies=[require("projects:read")], responses=documented(401, 422, 500, 503)
)
def list_projects(bounds: Bounds, caller: FromCaller, tx: Transaction) -> ProjectList:
    """Newest first: all with the bootstrap key, otherwise the key's own."""
    after = checked_cursor(bounds.after, is_project_id, what="a project id")
    if not caller.is_installation:
        own = [] if after else [Project.of(projects.get(tx, caller.project))]
        return ProjectList.of(own, limit=bounds.limit)
    found = projects.page(tx, limit=bounds.limit + 1, after=ProjectId(after) if after else None)
    return ProjectList.of([Project.of(row) for row in found], limit=bounds.limit)


@router.get(
    "/{project_id}",
    summary="Get a project",
    dependencies=[require("projects:read")],
    responses=documented(401, 404, 500, 503),
)
def get_project(project_id: PathProjectId, tx: Transaction) -> Project:
    """Its name and its own limits; what is null there is the installation's."""
    return Project.of(projects.get(tx, project_id))


@router.patch(
    "/{project_id}",
    summary="Change a project",
    dependencies=[require("projects:write")],
    responses=documented(400, 401, 404, 409, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(ProjectChange),
)
def change_project(
    project_id: PathProjectId, change: Annotated[ProjectChange, Depends(json_body(ProjectChange))], tx: Transaction
) -> Project:
    """Its name, its limits or its share of the GPUs. Only with the bootstrap key."""
    limits = None if change.limits is None else change.limits.model_dump(exclude_none=True)
    return Project.of(projects.change(tx, project_id, name=change.name, limits=limits, weight=change.weight))


@router.post(
    "/{project_id}/archive",
    summary="Archive a project",
    dependencies=[require("projects:write")],
    responses=documented(401, 404, 409, 500, 503),
)
def archive_project(project_id: PathProjectId, tx: Transaction) -> Project:
    """Its keys let nobody in any more; nothing is deleted. Refused while it has jobs that are not over."""
    return Project.of(projects.archive(tx, project_id))


@router.post(
    "/{project_id}/restore",
    summary="Restore a project",
    dependencies=[require("projects:write")],
    responses=documented(401, 404, 500, 503),
)
def restore_project(project_id: PathProjectId, tx: Transaction) -> Project:
    """Out of the archive; its keys work again."""
    return Project.of(projects.restore(tx, project_id))
